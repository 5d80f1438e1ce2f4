-- KEYS: callback_dedupe:<key>:done and :lease of each  ARGV: ms of the leases; then the owner of each
-- Returns new, done or busy each; the same owner asking again is new.
local out = {}
for i = 2, #ARGV do
  local done, lease = KEYS[2 * i - 3], KEYS[2 * i - 2]
  local owner = redis.call('GET', lease)
  if redis.call('EXISTS', done) == 1 then
    out[#out + 1] = 'done'
  elseif owner and owner ~= ARGV[i] then
    out[#out + 1] = 'busy'
  else
    redis.call('SET', lease, ARGV[i], 'PX', ARGV[1])
    out[#out + 1] = 'new'
  end
end
return out
