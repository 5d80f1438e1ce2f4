-- KEYS: reply, wake channel. ARGV: answer, id of the request, ms that it is kept.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.pcall('PUBLISH', KEYS[2], 'reply ' .. ARGV[2])
return 1
