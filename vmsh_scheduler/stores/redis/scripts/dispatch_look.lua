-- What stands before every dispatch_*.lua that writes. A script cannot take back what it wrote, so it looks before:
-- keys of others, and commands that the user may not use. What makes something (HSET, RPUSH) cannot be tried without
-- making it, so each task's first write is of that kind, and what takes away comes after it.
local KINDS = { 'list', 'list', 'zset', 'hash', 'hash' } -- of a queue's keys
local TRIES = {
  DEL = {}, HDEL = { '' }, LPOP = {}, LREM = { 0, '' }, SET = { '', 'XX', 'PX', 1 }, SREM = { '' },
  ZADD = { 'XX', 0, '' }, ZREM = { '' },
}

-- `queues`: how many begin KEYS; `hash`: number of a hash, or nil; `none`: a key that nobody has; then the commands,
-- first one that an overfull server takes, or SET, which it does not.
local function refusal(queues, hash, none, ...)
  for n = 1, queues * 5 + (hash and 1 or 0) do
    local at = n <= queues * 5 and n or hash
    local found, ours = redis.call('TYPE', KEYS[at]).ok, KINDS[(at - 1) % 5 + 1]
    if at == hash then ours = 'hash' end
    if found ~= 'none' and found ~= ours then
      return redis.error_reply('VMSH WRONGTYPE ' .. string.gsub(KEYS[at], '%c', '?') .. ' holds a ' .. found
        .. ', not a ' .. ours .. ' of ours')
    end
  end
  for _, name in ipairs({ ... }) do
    local said = redis.pcall(name, none, unpack(TRIES[name]))
    if type(said) == 'table' and said.err then
      return said
    end
  end
end

-- The agents' sets are for other readers: one that is no set stops no run.
local function drop(owners, sets, id)
  local owner = redis.call('HGET', owners, id)
  if owner then
    redis.pcall('SREM', sets .. owner, id)
    redis.call('HDEL', owners, id)
  end
end
