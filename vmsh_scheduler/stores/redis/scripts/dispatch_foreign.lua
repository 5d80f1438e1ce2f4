-- Boot over a queue of the original's: one batch of its tasks (forge-os section 10). Owners and the agents' sets are
-- made anew; what was claimed and is leased by nobody goes back to ready; what is leased is left alone.
-- KEYS: queue (ready, processing, inflight, payloads, owners), lock, "exec_lease:", "exec_agent_tasks:"
-- ARGV: lock value; then (id, its owner or "" if it has no payload, "1" = stood in processing) each. Answer: how many went back
if redis.call('GET', KEYS[6]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local refused = refusal(1, nil, KEYS[7], 'SET', 'LREM', 'ZREM', 'HDEL', 'SREM')
if refused then
  return refused
end
local back = 0
for i = 2, #ARGV, 3 do
  local id, owner = ARGV[i], ARGV[i + 1]
  local payload = redis.call('HGET', KEYS[4], id)
  if payload and owner ~= '' then
    redis.call('HSET', KEYS[5], id, owner)
    redis.pcall('SADD', KEYS[8] .. owner, id)
  end
  if ARGV[i + 2] == '1' and redis.call('EXISTS', KEYS[7] .. id) == 0 then
    if payload then
      redis.call('RPUSH', KEYS[1], id)
      if redis.call('LREM', KEYS[2], 1, id) == 1 then
        redis.call('ZREM', KEYS[3], id)
        back = back + 1
      else
        redis.call('LREM', KEYS[1], -1, id) -- it has left processing meanwhile
      end
    elseif redis.call('LREM', KEYS[2], 1, id) == 1 then
      redis.call('ZREM', KEYS[3], id)
      drop(KEYS[5], KEYS[8], id)
    end
  end
end
return back
