-- From here on, what this history of the server does not know was never pushed.
-- KEYS: meta, lock. ARGV: lock value, field, name of the history
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return redis.error_reply('NOTLEADING the lock is not yours')
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
