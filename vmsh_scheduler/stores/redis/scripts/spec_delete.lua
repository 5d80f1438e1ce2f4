-- KEYS: specs:<kind>, specs_version  ARGV: id, channel. Returns the new number of the collection, or 0: there was none.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local now = redis.call('INCR', KEYS[2])
redis.pcall('PUBLISH', ARGV[2], 'specs')
return now
