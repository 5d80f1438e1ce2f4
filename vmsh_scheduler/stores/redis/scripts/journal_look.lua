-- One job's chain at one moment. KEYS: journal_heads, journal_base, journal:<job>  ARGV: job, rows
-- Answer: head or '', base or '', the newest rows as XREVRANGE gives them
return {
  redis.call('HGET', KEYS[1], ARGV[1]) or '',
  redis.call('HGET', KEYS[2], ARGV[1]) or '',
  redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', ARGV[2]),
}
