-- KEYS: requests, wake channel. ARGV: request, ms until it is not to be begun any more, most that may wait.
-- 1 = it waits, 0 = too many do.
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('RPUSH', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])) .. ' ' .. ARGV[1])
redis.pcall('PUBLISH', KEYS[2], 'request')
return 1
