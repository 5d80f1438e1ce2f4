-- KEYS: specs:<kind>, specs_version, leader_lock  ARGV: lock value, id, its version, channel
-- Returns the new number of the whole collection; 0: there was none, -1: it has another version.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if not stored then return 0 end
if tonumber(cjson.decode(stored).version) ~= tonumber(ARGV[3]) then return -1 end
local now = redis.call('INCR', KEYS[2]) -- first: it is what may fail, and then nothing is written
redis.call('HDEL', KEYS[1], ARGV[2])
redis.pcall('PUBLISH', ARGV[4], 'specs')
return now
