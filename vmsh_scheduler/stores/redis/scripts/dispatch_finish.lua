-- Claims that still are the caller's end: the outcome waits for the leader, everything else of the task goes.
-- KEYS: two queues of (ready, processing, inflight, payloads, owners), outcomes, "exec_lease:", "exec_agent_tasks:", wake
-- ARGV: (queue 0|1, id, head of the lease's value, outcome or "" for none) each. Answer: 1 or 0 each,
--       then why the leader could not be woken, if so
local refused = refusal(2, 11, KEYS[12], 'HDEL', 'LREM', 'ZREM', 'SREM', 'DEL')
if refused then
  return refused
end
local out, ended = {}, false
for i = 1, #ARGV, 4 do
  local id, head, outcome = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local held = redis.call('GET', KEYS[12] .. id)
  if held and string.sub(held, 1, #head) == head then
    if outcome ~= '' then
      redis.call('HSET', KEYS[11], id, outcome)
    end
    ended = true
    out[#out + 1] = 1
  else
    -- sent twice: it is there already
    out[#out + 1] = redis.call('HGET', KEYS[11], id) == outcome and 1 or 0
  end
end
for i = 1, #ARGV, 4 do
  local q, id, head = tonumber(ARGV[i]) * 5, ARGV[i + 1], ARGV[i + 2]
  local held = redis.call('GET', KEYS[12] .. id)
  if held and string.sub(held, 1, #head) == head then
    redis.call('HDEL', KEYS[q + 4], id)
    drop(KEYS[q + 5], KEYS[13], id)
    redis.call('ZREM', KEYS[q + 3], id)
    redis.call('LREM', KEYS[q + 2], 1, id)
    redis.call('DEL', KEYS[12] .. id)
  end
end
if ended then
  local said = redis.pcall('PUBLISH', KEYS[14], 'outcome')
  if type(said) == 'table' and said.err then
    out[#out + 1] = said.err
  end
end
return out
