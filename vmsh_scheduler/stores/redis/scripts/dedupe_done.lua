-- KEYS: callback_dedupe:<key>:done, callback_dedupe:<key>:lease  ARGV: owner, ms that it is remembered
-- A lease that ran out meanwhile takes nothing from what the receiver has accepted; another's is left to him.
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
