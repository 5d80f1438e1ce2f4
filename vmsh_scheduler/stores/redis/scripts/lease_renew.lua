-- KEYS: leader_lock  ARGV: the whole value, ms to live. Returns 1 if it still is the caller's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
