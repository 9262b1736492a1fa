-- 4 whose, 5 limit ('' to take it back), 6 payload
-- Asked again after its answer was lost, it is one change still.
if redis.call('HGET', META, 'limit') == ARGV[6] then return {'ok', meta[3]} end
local seq = emit('limit', ARGV[6])
redis.call('HSET', META, 'limit', ARGV[6])
if ARGV[5] == '' then
  redis.call('HDEL', P .. 'limit', ARGV[4])
else
  redis.call('HSET', P .. 'limit', ARGV[4], ARGV[5])
end
return {'ok', seq}
