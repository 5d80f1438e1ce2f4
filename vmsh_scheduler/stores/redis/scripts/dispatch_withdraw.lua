-- Tasks that nobody has claimed are taken out. Whatever is not claimed ends so: a push that comes late changes nothing.
-- KEYS: two queues of (ready, processing, inflight, payloads, owners), outcomes, lock, "exec_agent_tasks:", "lease:",
--       "exec_lease:", meta
-- ARGV: lock value, outcome of a withdrawn task, number of this step; then the ids. Answer: the ids that were taken out
if redis.call('GET', KEYS[12]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local refused = refusal(2, 11, KEYS[15], 'HDEL', 'LREM', 'LPOP', 'SREM', 'DEL')
if refused then
  return refused
end
local last, by = string.match(redis.call('HGET', KEYS[16], 'withdrawn') or '', '^(%d+) (.*)$')
if by ~= ARGV[1] or tonumber(last) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[16], 'withdrawn', ARGV[3] .. ' ' .. ARGV[1])
end
local FEW = 8
local out, gone, begun = {}, { {}, {} }, {}
for q = 0, 5, 5 do
  for _, id in ipairs(redis.call('LRANGE', KEYS[q + 2], 0, -1)) do
    begun[id] = true
  end
end
for i = 4, #ARGV do
  local id = ARGV[i]
  local claimed = begun[id] or redis.call('EXISTS', KEYS[15] .. id) == 1
  for q = 0, 5, 5 do
    claimed = claimed or redis.call('ZSCORE', KEYS[q + 3], id)
  end
  if not claimed then
    redis.call('HSETNX', KEYS[11], id, ARGV[2])
    for q = 0, 5, 5 do
      if redis.call('HDEL', KEYS[q + 4], id) == 1 then
        local owner = redis.call('HGET', KEYS[q + 5], id)
        if owner then
          drop(KEYS[q + 5], KEYS[13], id)
          redis.call('DEL', KEYS[14] .. owner)
        end
        local line = gone[q / 5 + 1]
        line[#line + 1] = id
        line[id] = true
        out[#out + 1] = id
      end
    end
  end
end
for q = 0, 5, 5 do
  local line = gone[q / 5 + 1]
  if #line <= FEW then
    for _, id in ipairs(line) do
      redis.call('LREM', KEYS[q + 1], 1, id)
    end
  else
    -- one pass over the list, not one for each; what stays is written before anything goes
    local left = redis.call('LRANGE', KEYS[q + 1], 0, -1)
    for _, id in ipairs(left) do
      if not line[id] then
        redis.call('RPUSH', KEYS[q + 1], id)
      end
    end
    redis.call('LPOP', KEYS[q + 1], #left)
  end
end
return out
