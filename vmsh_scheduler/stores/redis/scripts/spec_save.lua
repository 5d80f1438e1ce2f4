-- KEYS: specs:<kind>, specs_version  ARGV: id, its new version, text, channel, name of this request
-- Returns the new number of the whole collection, or 0: somebody else changed the document meanwhile.
local stored, version = redis.call('HGET', KEYS[1], ARGV[1]), 0
if stored then
  local spec = cjson.decode(stored)
  if spec.request == ARGV[5] then return tonumber(redis.call('GET', KEYS[2]) or '0') end
  version = tonumber(spec.version)
end
if tonumber(ARGV[2]) ~= version + 1 then return 0 end
local now = redis.call('INCR', KEYS[2]) -- first: it is what may fail, and then nothing is written
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.pcall('PUBLISH', ARGV[4], 'specs')
return now
