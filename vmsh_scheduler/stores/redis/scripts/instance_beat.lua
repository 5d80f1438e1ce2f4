-- KEYS: instances. ARGV: our id, what we say of ourselves ('' = we go), ms that it counts.
-- Everybody who counts: id, words, id, words ...; the others are taken out.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + tonumber(ARGV[3])) .. ' ' .. ARGV[2])
end
local all = redis.call('HGETALL', KEYS[1])
local living = {}
for n = 1, #all, 2 do
  local blank = string.find(all[n + 1], ' ', 1, true)
  local till = blank and tonumber(string.sub(all[n + 1], 1, blank - 1))
  if till and till > now then
    living[#living + 1] = all[n]
    living[#living + 1] = string.sub(all[n + 1], blank + 1)
  else
    redis.call('HDEL', KEYS[1], all[n])
  end
end
return living
