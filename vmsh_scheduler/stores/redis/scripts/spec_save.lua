-- KEYS: specs:<kind>, specs_version, leader_lock, meta
-- ARGV: lock value, number of this step, id, its new version, text, channel, name of this request
-- Returns the new number of the whole collection, or 0: somebody else changed the document meanwhile.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local stored, version = redis.call('HGET', KEYS[1], ARGV[3]), 0
if stored then
  local spec = cjson.decode(stored)
  if spec.request == ARGV[7] then return tonumber(redis.call('GET', KEYS[2]) or '0') end
  version = tonumber(spec.version)
end
if tonumber(ARGV[4]) ~= version + 1 then return 0 end
local last, by = string.match(redis.call('HGET', KEYS[4], 'specs_step') or '', '^(%d+) (.*)$')
if by == ARGV[1] and tonumber(ARGV[2]) < tonumber(last) then -- versions may have begun at 1 again
  return redis.error_reply('STALE the leader has written documents since')
end
redis.call('HSET', KEYS[4], 'specs_step', ARGV[2] .. ' ' .. ARGV[1])
local now = redis.call('INCR', KEYS[2]) -- before the document: it is what may fail
redis.call('HSET', KEYS[1], ARGV[3], ARGV[5])
redis.pcall('PUBLISH', ARGV[6], 'specs')
return now
