-- 4 reservation, 5 request, 6 attempt, 7 new state, 8 nano-USD, 9 tokens ('' for all), 10 requests,
-- 11 payload, 12 status of the request's end ('' for none), 13 seconds to remember it
local R, Q = P .. 'r:' .. ARGV[4], P .. 'q:' .. ARGV[5]
local r = redis.call('HMGET', R, 'st', 'a', 't', 'q', 'n', 'p', 'x')
if not r[1] then return {'notopen', meta[3], 'unknown', '0', '', '0'} end
local first = r[1] == 'open'
if not (first or r[1] == 'expired') or r[4] ~= ARGV[5] or r[5] ~= ARGV[6] then
  return {'notopen', meta[3], r[1], r[7] or '0', r[4], r[5]}
end
local reserved = {tonumber(r[2]), tonumber(r[3]), 1}
local tokens = ARGV[9] == '' and reserved[2] or tonumber(ARGV[9])
local held, actual = reserved, {tonumber(ARGV[8]), tokens, tonumber(ARGV[10])}
if not first then -- it was charged in full; what it really took replaces that
  held = {0, 0, 0}
  actual = {actual[1] - reserved[1], tokens - reserved[2], actual[3] - 1}
end
local list, problem = changes(r[6], held, actual, reserved, first)
if not list then return problem end

local seq = emit('end', ARGV[11])
charge(list)
redis.call('HSET', R, 'st', first and ARGV[7] or 'corrected', 'x', ARGV[8], 'v', seq)
redis.call('ZREM', P .. 'open', ARGV[4])
forget('r:' .. ARGV[4], ARGV[13])
if ARGV[12] ~= '' then
  redis.call('HSET', Q, 'st', ARGV[12])
  redis.call('ZREM', P .. 'requests', ARGV[5])
end
return {'ok', seq}
