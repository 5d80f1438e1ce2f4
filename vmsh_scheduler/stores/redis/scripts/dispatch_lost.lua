-- Claims whose lease ran out are taken out, and their outcome is that nobody saw the end. Tasks that are not ours go
-- back to ready, as their own program would do it (forge-os section 10, requeue expired).
-- KEYS: two queues of (ready, processing, inflight, payloads, owners), outcomes, lock, "exec_lease:",
--       "exec_agent_tasks:", wake
-- ARGV: lock value, batch, outcome of a lost task. Answer: how many were looked at, then the ids of the lost
if redis.call('GET', KEYS[12]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local refused = refusal(2, 11, KEYS[13], 'ZREM', 'ZADD', 'LREM', 'HDEL', 'SREM')
if refused then
  return refused
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out, looked, requeued = {}, 0, false
for q = 0, 5, 5 do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[q + 3], '-inf', now, 'LIMIT', 0, ARGV[2])) do
    looked = looked + 1
    if redis.call('EXISTS', KEYS[13] .. id) == 1 then
      redis.call('ZADD', KEYS[q + 3], now + math.max(1000, redis.call('PTTL', KEYS[13] .. id)), id)
    else
      local payload = redis.call('HGET', KEYS[q + 4], id)
      if payload and not string.find(payload, '"vmsh":', 1, true) then
        redis.call('RPUSH', KEYS[q + 1], id)
        requeued = true
      else
        -- also where the payload was removed by hand: somebody may wait for it. One that ended keeps how.
        if redis.call('HSETNX', KEYS[11], id, ARGV[3]) == 1 then
          out[#out + 1] = id
        end
        redis.call('HDEL', KEYS[q + 4], id)
        drop(KEYS[q + 5], KEYS[14], id)
      end
      redis.call('LREM', KEYS[q + 2], 1, id)
      redis.call('ZREM', KEYS[q + 3], id)
    end
  end
end
if requeued then
  redis.pcall('PUBLISH', KEYS[15], 'ready')
end
table.insert(out, 1, looked)
return out
