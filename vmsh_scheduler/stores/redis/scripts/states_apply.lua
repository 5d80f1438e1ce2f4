-- A batch of changes, whole or not at all: states, journal rows, and what each settled run leaves behind.
-- KEYS: leader_lock, meta, states, journal_base, journal_heads, journal_recent, outcomes, agents, agent_schedule,
--       then those that steps name by number
-- ARGV: lock value, writes so far, name of this batch, rows kept in journal_recent, steps
-- `writes` proves that nothing was written since the caller looked, so a batch that arrives late changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not the caller\'s')
end
local known = redis.call('HMGET', KEYS[2], 'writes', 'written')
if known[2] == ARGV[3] then return tonumber(known[1]) end
if (known[1] or '0') ~= ARGV[2] then
  return redis.error_reply('STALE the states were written to since')
end

local first, at = 5, 5
local function take(count)
  at = at + count
  return unpack(ARGV, at - count, at - 1)
end

-- A script cannot take back what it wrote, so whatever could stop it half-way is looked for before: keys of others,
-- rows that a stream would not take, commands that the user may not use.
local function refusal(code, key, text)
  return redis.error_reply('VMSH ' .. code .. ' ' .. string.gsub(key, '%c', '?') .. text)
end
local types = {'string', 'hash', 'hash', 'hash', 'hash', 'stream', 'hash', 'hash', 'zset'}
for n, ours in ipairs(types) do
  local found = redis.call('TYPE', KEYS[n]).ok
  if found ~= 'none' and found ~= ours then
    return refusal('WRONGTYPE', KEYS[n], ' holds a ' .. found .. ', not a ' .. ours .. ' of ours')
  end
end
local words = { state = 2, drop = 1, row = 9, trim = 3, leave = 3, settled = 1, free = 1, agent = 3, gone = 1 }
local looked = {}
while at <= #ARGV do
  local name = take(1)
  local number, _, seq = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + words[name]
  if name == 'row' and not looked[number] then
    local key = KEYS[tonumber(number)]
    local later = redis.pcall('XREVRANGE', key, '+', seq .. '-0', 'COUNT', 1)
    if later.err then
      local found = redis.call('TYPE', key).ok
      if found == 'stream' or found == 'none' then return later end
      return refusal('WRONGTYPE', key, ' holds a ' .. found .. ', not a stream of ours')
    end
    if later[1] then
      return refusal('CHAIN', key, ' ends at row ' .. string.match(later[1][1], '^%d+')
        .. ', but its head says that row ' .. seq .. ' is next')
    end
    looked[number] = true
  end
end
at = first
-- HSET first, and to what is there anyway: after another write Redis does not say any more that it is out of memory
redis.call('HSET', KEYS[2], 'writes', ARGV[2])
local none = KEYS[1] .. '_probe'
redis.call('HDEL', none, 'a')
redis.call('XADD', none, 'NOMKSTREAM', '*', 'a', 'b')
redis.call('XTRIM', none, 'MAXLEN', 0)
redis.call('ZADD', none, 'XX', 0, 'a')
redis.call('ZREM', none, 'a')
redis.call('DEL', none)
redis.call('PERSIST', none)
redis.call('PEXPIRE', none, 1)

local step = {}
function step.state() -- job, text
  redis.call('HSET', KEYS[3], take(2))
end
function step.drop() -- job
  redis.call('HDEL', KEYS[3], take(1))
end
function step.row() -- journal, job, seq, kind, at, run, body, prev, hash
  local key, job, seq, kind, when, run, body, prev, hash = take(9)
  local head = redis.call('HGET', KEYS[5], job)
  if head and string.sub(head, -5) == ' gone' then -- the job is back; its rows may have run out meanwhile
    if redis.call('EXISTS', KEYS[tonumber(key)]) == 0 then
      redis.call('HSET', KEYS[4], job, string.sub(head, 1, -6))
    else
      redis.call('PERSIST', KEYS[tonumber(key)])
    end
  end
  redis.call('XADD', KEYS[tonumber(key)], seq .. '-0', 'kind', kind, 'at', when, 'run', run, 'body', body,
    'prev', prev, 'hash', hash)
  redis.call('HSET', KEYS[5], job, seq .. ' ' .. hash)
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[4], '*', 'job', job, 'seq', seq, 'kind', kind, 'at', when,
    'run', run, 'body', body)
end
function step.trim() -- journal, job, newest row that goes
  local key, job, seq = take(3)
  local last = redis.call('XRANGE', KEYS[tonumber(key)], seq .. '-0', seq .. '-0')[1]
  if not last then return end
  for n = 1, #last[2], 2 do
    if last[2][n] == 'hash' then redis.call('HSET', KEYS[4], job, seq .. ' ' .. last[2][n + 1]) end
  end
  redis.call('XTRIM', KEYS[tonumber(key)], 'MINID', string.format('%.0f-0', tonumber(seq) + 1))
end
function step.leave() -- journal, job, ms: the rows of a job that is gone run out
  local key, job, ms = take(3)
  local head = redis.call('HGET', KEYS[5], job)
  if not head or string.sub(head, -5) == ' gone' then return end
  redis.call('HSET', KEYS[5], job, head .. ' gone')
  redis.call('PEXPIRE', KEYS[tonumber(key)], ms)
end
function step.settled() -- run
  redis.call('HDEL', KEYS[7], take(1))
end
function step.free() -- lease of an agent
  redis.call('DEL', KEYS[tonumber(take(1))])
end
function step.agent() -- agent, record, next run or ''
  local agent, record, due = take(3)
  redis.call('HSET', KEYS[8], agent, record)
  if due == '' then redis.call('ZREM', KEYS[9], agent) else redis.call('ZADD', KEYS[9], due, agent) end
end
function step.gone() -- agent
  local agent = take(1)
  redis.call('HDEL', KEYS[8], agent)
  redis.call('ZREM', KEYS[9], agent)
end

while at <= #ARGV do step[take(1)]() end
local writes = string.format('%.0f', tonumber(ARGV[2]) + 1)
redis.call('HSET', KEYS[2], 'writes', writes, 'written', ARGV[3])
return tonumber(writes)
