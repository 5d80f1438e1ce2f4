-- Up to `limit` ready tasks are the caller's for a while. Sent again, it gives what it gave before, and then more.
-- KEYS: queue (ready, processing, inflight, payloads, owners), fence, "exec_lease:", "exec_agent_tasks:"
-- ARGV: limit, lease ms, head of the lease's value, "1" = an answer to this claim was lost
-- Answer: fence, then (id, payload) each
local refused = refusal(1, nil, KEYS[7], 'LPOP', 'SET', 'ZADD', 'HDEL', 'SREM')
if refused then
  return refused
end
local limit, lease, head = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fence = redis.call('GET', KEYS[6]) or '0'
if not string.match(fence, '^%d+$') or tonumber(fence) > 9007199254740991 then fence = '0' end -- no fence of ours: the task's own is right
local value = head .. ',"leaderFenceToken":' .. fence .. ',"ts":' .. string.format('%.0f', now) .. '}'
local out = { fence }

local function take(id, payload)
  redis.call('SET', KEYS[7] .. id, value, 'PX', lease)
  redis.call('ZADD', KEYS[3], now + lease, id)
  out[#out + 1] = id
  out[#out + 1] = payload
end

if ARGV[4] == '1' then
  for _, id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
    local held = redis.call('GET', KEYS[7] .. id)
    local payload = held and string.sub(held, 1, #head) == head and redis.call('HGET', KEYS[4], id)
    if payload then
      take(id, payload)
    end
  end
end
while (#out - 1) / 2 < limit do
  local ids = redis.call('LRANGE', KEYS[1], 0, limit - (#out - 1) / 2 - 1)
  if #ids == 0 then
    break
  end
  for _, id in ipairs(ids) do
    local payload = redis.call('HGET', KEYS[4], id)
    if not payload then
      drop(KEYS[5], KEYS[8], id)
    elseif redis.call('EXISTS', KEYS[7] .. id) == 0 then
      redis.call('RPUSH', KEYS[2], id)
      take(id, payload)
    end
  end
  redis.call('LPOP', KEYS[1], #ids)
end
return out
