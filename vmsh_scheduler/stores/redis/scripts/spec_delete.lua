-- KEYS: specs:<kind>, specs_version, leader_lock, meta  ARGV: lock value, number of this step, id, its version, channel
-- Returns the new number of the whole collection; 0: there was none, -1: it has another version.
-- Versions begin at 1 again after a removal, so whatever comes after a later step of the same leader changes nothing.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local stored = redis.call('HGET', KEYS[1], ARGV[3])
if not stored then return 0 end
local last, by = string.match(redis.call('HGET', KEYS[4], 'specs_step') or '', '^(%d+) (.*)$')
if by == ARGV[1] and tonumber(ARGV[2]) < tonumber(last) then
  return redis.error_reply('STALE the leader has written documents since')
end
if tonumber(cjson.decode(stored).version) ~= tonumber(ARGV[4]) then return -1 end
redis.call('HSET', KEYS[4], 'specs_step', ARGV[2] .. ' ' .. ARGV[1])
local now = redis.call('INCR', KEYS[2]) -- before the document goes: it is what may fail
redis.call('HDEL', KEYS[1], ARGV[3])
redis.pcall('PUBLISH', ARGV[5], 'specs')
return now
