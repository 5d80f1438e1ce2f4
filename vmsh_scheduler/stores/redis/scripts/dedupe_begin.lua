-- KEYS: callback_dedupe:<key>:done, callback_dedupe:<key>:lease  ARGV: owner, ms of the lease
-- Returns new, done or busy; the same owner asking again is new.
if redis.call('EXISTS', KEYS[1]) == 1 then return 'done' end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return 'busy' end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 'new'
