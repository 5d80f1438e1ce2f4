-- Outcomes that no settled state replaces.
-- KEYS: outcomes, lock. ARGV: lock value; then the ids
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local refused = refusal(0, 1)
if refused then
  return refused
end
local gone = 0
for i = 2, #ARGV do
  gone = gone + redis.call('HDEL', KEYS[1], ARGV[i])
end
return gone
