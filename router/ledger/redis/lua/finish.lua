-- 4 request, 5 status, 6 payload, 7 how far the log's store was looked at, 8 whether it has it
local Q = P .. 'q:' .. ARGV[4]
local here = redis.call('EXISTS', Q) == 1
if not here and ARGV[8] == '' then
  return {overlooked(ARGV[7]) and 'again' or 'unknown', meta[3]}
end
local seq = emit('finish', ARGV[6])
if here then
  redis.call('HSET', Q, 'st', ARGV[5])
  redis.call('ZREM', P .. 'requests', ARGV[4])
end
return {'ok', seq}
