-- 4 request, 5 status, 6 payload, 7 seconds to remember it, 8 how far the log's store was looked at,
-- 9 the status that it knows ('' for none)
local status = redis.call('HGET', P .. 'q:' .. ARGV[4], 'st')
if status or ARGV[9] ~= '' then return {'known', meta[3], status or ARGV[9]} end
if overlooked(ARGV[8]) then return {'again', meta[3]} end
local seq = emit('refuse', ARGV[6])
redis.call('HSET', P .. 'q:' .. ARGV[4], 'st', ARGV[5], 'v', seq)
forget('q:' .. ARGV[4], ARGV[7])
return {'ok', seq}
