-- 4 request, 5 status, 6 payload
if redis.call('EXISTS', P .. 'q:' .. ARGV[4]) == 0 then return {'unknown', meta[3]} end
local seq = emit('finish', ARGV[6])
redis.call('HSET', P .. 'q:' .. ARGV[4], 'st', ARGV[5])
redis.call('ZREM', P .. 'requests', ARGV[4])
return {'ok', seq}
