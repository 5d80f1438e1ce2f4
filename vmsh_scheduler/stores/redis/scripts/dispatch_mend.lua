-- Tasks that stand in no list, because one was removed by hand or a server stopped half-way, stand in one again.
-- Whoever may have begun is looked at as a claim, which `lost` ends if nobody has it; the others become ready. What is
-- gone altogether counts as claimed for a while: its worker may go on until its lease is over. What the original
-- left in no list stays as it is: it may be done.
-- KEYS: two queues of (ready, processing, inflight, payloads, owners), outcomes, lock, "exec_lease:", wake
-- ARGV: lock value, ms that what the store may have forgotten counts as claimed;
--       then (queue 0|1, or 2 = perhaps forgotten, id) each
-- Answer: the ids of those that something was done about
if redis.call('GET', KEYS[12]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
local refused = refusal(2, 11, KEYS[13], 'ZREM', 'ZADD')
if refused then
  return refused
end
local lists, out = {}, {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function stands(list, q, id)
  local name = KEYS[q + list]
  if not lists[name] then
    lists[name] = {}
    for _, each in ipairs(redis.call('LRANGE', name, 0, -1)) do
      lists[name][each] = true
    end
  end
  return lists[name][id]
end

local function ours(q, id)
  local payload = redis.call('HGET', KEYS[q + 4], id)
  return payload and string.find(payload, '"vmsh":', 1, true)
end

local function put_back(q, id)
  local left = redis.call('PTTL', KEYS[13] .. id)
  if left ~= -2 or stands(2, q, id) or redis.call('HEXISTS', KEYS[11], id) == 1 then
    redis.call('ZADD', KEYS[q + 3], now + math.max(0, left), id)
  else
    redis.call('RPUSH', KEYS[q + 1], id)
    lists[KEYS[q + 1]][id] = true
  end
end

local function known(id)
  local found = redis.call('EXISTS', KEYS[13] .. id) == 1
  for q = 0, 5, 5 do
    found = found or redis.call('HEXISTS', KEYS[q + 4], id) == 1 or redis.call('ZSCORE', KEYS[q + 3], id)
  end
  return found
end

for i = 3, #ARGV, 2 do
  local q, id = tonumber(ARGV[i]) * 5, ARGV[i + 1]
  local done = false
  if q == 10 then
    done = not known(id) and redis.call('HEXISTS', KEYS[11], id) == 0
      and redis.call('ZADD', KEYS[8], now + tonumber(ARGV[2]), id) == 1
  elseif ours(q, id) and not stands(1, q, id) and not redis.call('ZSCORE', KEYS[q + 3], id) then
    put_back(q, id)
    done = true
  end
  if done then
    out[#out + 1] = id
  end
end
if #out > 0 then
  redis.pcall('PUBLISH', KEYS[14], 'ready')
end
return out
