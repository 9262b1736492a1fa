-- 4 request, 5 status, 6 payload, 7 seconds to remember it
local status = redis.call('HGET', P .. 'q:' .. ARGV[4], 'st')
if status then return {'known', meta[3], status} end
local seq = emit('refuse', ARGV[6])
redis.call('HSET', P .. 'q:' .. ARGV[4], 'st', ARGV[5], 'v', seq)
forget('q:' .. ARGV[4], ARGV[7])
return {'ok', seq}
