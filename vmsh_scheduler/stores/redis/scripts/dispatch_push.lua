-- Tasks become ready, in this order. One whose id is known already changes nothing; a push that comes after a later
-- withdrawal of the same leader does not either: what was withdrawn may have been settled and forgotten since.
-- KEYS: two queues of (ready, processing, inflight, payloads, owners), outcomes, lock, "exec_agent_tasks:", "lease:", wake, meta
-- ARGV: lock value, PX of the agents' leases, their value, number of this step; then (queue 0|1, id, owner, payload) each
-- Answer: '', or why nobody could be woken
if redis.call('GET', KEYS[12]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local last, by = string.match(redis.call('HGET', KEYS[16], 'withdrawn') or '', '^(%d+) (.*)$')
if by == ARGV[1] and tonumber(ARGV[4]) < tonumber(last) then
  return redis.error_reply('STALE the leader has withdrawn tasks since')
end
local refused = refusal(2, 11, KEYS[14], 'SET', 'HDEL')
if refused then
  return refused
end
for i = 5, #ARGV, 4 do
  local q, id, owner = tonumber(ARGV[i]) * 5, ARGV[i + 1], ARGV[i + 2]
  if redis.call('HEXISTS', KEYS[q + 4], id) == 0 and redis.call('HEXISTS', KEYS[11], id) == 0 then
    redis.call('HSET', KEYS[q + 4], id, ARGV[i + 3])
    local ready = redis.pcall('RPUSH', KEYS[q + 1], id)
    if type(ready) == 'table' then
      redis.call('HDEL', KEYS[q + 4], id)
      return ready
    end
    if owner ~= '' then
      redis.call('HSET', KEYS[q + 5], id, owner)
      redis.pcall('SADD', KEYS[13] .. owner, id)
      redis.call('SET', KEYS[14] .. owner, ARGV[3], 'PX', ARGV[2])
    end
  end
end
local said = redis.pcall('PUBLISH', KEYS[15], 'ready')
return type(said) == 'table' and said.err or ''
