-- KEYS: leader lock, requests. ARGV: our lock. The oldest request whose time is not over, or nothing.
-- What is no request of ours goes with those whose time is over.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
while true do
  local entry = redis.call('LPOP', KEYS[2])
  if not entry then
    return false
  end
  local blank = string.find(entry, ' ', 1, true)
  local till = blank and tonumber(string.sub(entry, 1, blank - 1))
  if till and now < till then
    return string.sub(entry, blank + 1)
  end
end
