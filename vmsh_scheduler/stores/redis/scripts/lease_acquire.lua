-- The lock, if nobody has it, under a fence above every earlier one.
-- KEYS: leader_lock, leader_fence
-- ARGV: the holder's own part of the value (instance:uuid), instance, highest fence it ever saw, ms to live,
--       "1" = not if the caller may not do all that a leader does
-- Returns {1, value} or {0, value of who has it}. Sent twice it finds its own value: the same fence again.
local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 1, #ARGV[1] + 1) ~= ARGV[1] .. '|' then return {0, held} end
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {1, held}
end

local known = redis.call('GET', KEYS[2]) or '0'
-- what is no number was given to nobody; above 2^53 a double does not count by one any more
local before = string.match(known, '^%d+$') and tonumber(known) or 0
if before >= 9007199254740991 then
  return redis.error_reply('VMSH FENCE ' .. KEYS[2] .. ' holds ' .. string.sub(known, 1, 40)
    .. ', too large to count on; remove it: redis-cli DEL ' .. string.gsub(KEYS[2], '%c', '?'))
end

if ARGV[5] == '1' then
  -- on a key that is gone afterwards in any case; SET says first what the server refuses to everybody
  local probe = KEYS[1] .. '_probe'
  redis.call('SET', probe, '', 'PX', 1)
  local commands = {
    {'DEL'}, {'HSET', 'a', 'b'}, {'HSETNX', 'a', 'b'}, {'HDEL', 'a'}, {'XADD', '1-0', 'a', 'b'}, {'XRANGE', '-', '+'},
    {'XREVRANGE', '+', '-'}, {'XTRIM', 'MAXLEN', '0'}, {'DEL'}, {'ZADD', '1', 'a'}, {'ZREM', 'a'}, {'RPUSH', 'a'},
    {'LREM', '0', 'a'}, {'LPOP'}, {'SADD', 'a'}, {'SREM', 'a'}, {'PERSIST'}, {'PEXPIRE', '1'},
  }
  for _, words in ipairs(commands) do
    local found = redis.pcall(words[1], probe, unpack(words, 2))
    if type(found) == 'table' and found.err then
      redis.pcall('DEL', probe)
      return redis.error_reply('VMSH NOPERM the Redis user may not do what a leader does: ' .. words[1])
    end
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local fence = string.format('%.0f', math.max(before + 1, tonumber(ARGV[3]) + 1, now))
local value = ARGV[1] .. '|' .. fence .. '|' .. ARGV[2]
redis.call('SET', KEYS[2], fence)
redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
return {1, value}
