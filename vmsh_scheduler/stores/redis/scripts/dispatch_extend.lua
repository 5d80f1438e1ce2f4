-- Claims that still are the caller's last longer from now on.
-- KEYS: inflight of either queue, "exec_lease:"
-- ARGV: lease ms; then (queue 0|1, id, head of the lease's value) each. Answer: 1 or 0 each
local lease = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {}
for i = 2, #ARGV, 3 do
  local id, head = ARGV[i + 1], ARGV[i + 2]
  local held = redis.call('GET', KEYS[3] .. id)
  local mine = held and string.sub(held, 1, #head) == head
  if mine then
    redis.call('PEXPIRE', KEYS[3] .. id, lease)
    -- the lease is what counts; whoever looks for lost claims says so if this may not be written
    redis.pcall('ZADD', KEYS[tonumber(ARGV[i]) + 1], now + lease, id)
  end
  out[#out + 1] = mine and 1 or 0
end
return out
