-- KEYS: callback_dedupe:<key>:done and :lease of each  ARGV: ms that they are remembered; then the owner of each
-- A lease that ran out meanwhile takes nothing from what the receiver has accepted; another's is left to him.
local out = {}
for i = 2, #ARGV do
  local done, lease = KEYS[2 * i - 3], KEYS[2 * i - 2]
  local owner = redis.call('GET', lease)
  local ours = not owner or owner == ARGV[i]
  if ours then
    redis.call('SET', done, '1', 'PX', ARGV[1])
    redis.call('DEL', lease)
  end
  out[#out + 1] = ours and 1 or 0
end
return out
