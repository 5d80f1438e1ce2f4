-- KEYS: leader_lock  ARGV: the whole value. Somebody else's lock stays.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
