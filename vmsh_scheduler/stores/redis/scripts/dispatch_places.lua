-- Where tasks are.
-- KEYS: inflight and payloads of either queue, outcomes, "exec_lease:"
-- ARGV: outcome of a lost task; then the ids. Answer: one word each
local out = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local outcome = redis.call('HGET', KEYS[5], id)
  local place = 'absent'
  if outcome then
    place = outcome == ARGV[1] and 'lost' or 'ended'
  elseif redis.call('EXISTS', KEYS[6] .. id) == 1 then
    place = 'claimed'
  else
    for q = 0, 2, 2 do
      if redis.call('ZSCORE', KEYS[q + 1], id) then
        place = 'lost'
      elseif redis.call('HEXISTS', KEYS[q + 2], id) == 1 then
        place = 'ready'
      end
    end
  end
  out[#out + 1] = place
end
return out
