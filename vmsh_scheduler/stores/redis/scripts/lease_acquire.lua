-- The lock, if nobody has it, under a fence above every earlier one.
-- KEYS: leader_lock, leader_fence
-- ARGV: the holder's own part of the value (instance:uuid), instance, highest fence it ever saw, ms to live
-- Returns {1, value} or {0, value of who has it}. Sent twice it finds its own value: the same fence again.
local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 1, #ARGV[1] + 1) ~= ARGV[1] .. '|' then return {0, held} end
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {1, held}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local before = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
local fence = string.format('%.0f', math.max(before + 1, tonumber(ARGV[3]) + 1, now))
local value = ARGV[1] .. '|' .. fence .. '|' .. ARGV[2]
redis.call('SET', KEYS[2], fence)
redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
return {1, value}
