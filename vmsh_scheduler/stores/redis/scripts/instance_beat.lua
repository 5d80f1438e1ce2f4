-- KEYS: instances. ARGV: our id, what we say of ourselves ('' = we go), ms that it counts, what only our words hold.
-- First who else counts under our id, '' if nobody; he stays when we go.
-- Everybody who counts: id, words, id, words ...; the others are taken out, also who would count for longer than
-- anybody says of himself.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local longest = tonumber(ARGV[3]) * 12 -- other versions may count longer
local before, other = redis.call('HGET', KEYS[1], ARGV[1]), ''
if before then
  local blank = string.find(before, ' ', 1, true)
  local till = blank and tonumber(string.sub(before, 1, blank - 1))
  if till and till > now and till <= now + longest and not string.find(before, ARGV[4], 1, true) then
    other = string.sub(before, blank + 1)
  end
end
if ARGV[2] == '' then
  if other == '' then redis.call('HDEL', KEYS[1], ARGV[1]) end
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + tonumber(ARGV[3])) .. ' ' .. ARGV[2])
end
local all = redis.call('HGETALL', KEYS[1])
local living = { other }
for n = 1, #all, 2 do
  local blank = string.find(all[n + 1], ' ', 1, true)
  local till = blank and tonumber(string.sub(all[n + 1], 1, blank - 1))
  if till and till > now and till <= now + longest then
    living[#living + 1] = all[n]
    living[#living + 1] = string.sub(all[n + 1], blank + 1)
  else
    redis.call('HDEL', KEYS[1], all[n])
  end
end
return living
