-- 4 position, 5 how many at most: what was done after that position, and in which run that stands
local after = text(tonumber(ARGV[4]) + 1) .. '-0'
return {
  'ok', meta[3], meta[3], meta[2], redis.call('HGET', META, 'drained'),
  redis.call('XRANGE', P .. 'outbox', after, '+', 'COUNT', ARGV[5])
}
