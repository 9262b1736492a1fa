-- 4 lease, 5 nano-USD and 6 tokens that it keeps, 7 expires at, 8 payload, 9 and 10 seconds to
-- remember calls that ended and that expired; then for each call twelve: reservation, request,
-- attempt, state, nano-USD and tokens set aside, nano-USD and tokens taken, requests, status of its
-- request's row ('' for none), status of the request's end ('' for none), expires at.
local L = P .. 'r:' .. ARGV[4]
local lease = redis.call('HMGET', L, 'st', 'a', 't', 'p', 'q')
if not lease[1] then return {'state', meta[3], 'unknown'} end
local open = lease[1] == 'open'
if not open and lease[1] ~= 'expired' then return {'state', meta[3], lease[1]} end

-- Calls that are there already were written when this step was done before.
local calls, taken, inside = {}, {0, 0}, {0, 0}
for at = 11, #ARGV, 12 do
  if redis.call('EXISTS', P .. 'r:' .. ARGV[at]) == 0 then
    calls[#calls + 1] = at
    for meter = 1, 2 do
      local aside, took = tonumber(ARGV[at + 3 + meter]), tonumber(ARGV[at + 5 + meter])
      taken[meter] = taken[meter] + took
      inside[meter] = inside[meter] + math.min(aside, took)
    end
  end
end
local freed = {tonumber(lease[2]) - tonumber(ARGV[5]), tonumber(lease[3]) - tonumber(ARGV[6])}
if freed[1] < inside[1] or freed[2] < inside[2] then return {'state', meta[3], 'short'} end

-- What the lease held, or was charged, falls; what its calls took is settled.
local paying, changed = cjson.decode(lease[4]), {}
for i = 1, #paying, 2 do
  local of = OF[paying[i + 1]]
  local c = redis.call('HMGET', P .. 'a:' .. paying[i], 's', 'h', 'c')
  if not c[1] then return {'vanished', paying[i]} end
  local held, settled = open and -freed[of] or 0, taken[of] - (open and 0 or freed[of])
  local s, h = tonumber(c[1]) + settled, tonumber(c[2]) + held
  if s + tonumber(c[3] or '0') < 0 or h < 0 or s + h >= TOO_MUCH then
    return {'overflow', paying[i]}
  end
  changed[i] = {paying[i], held, settled, taken[of] - inside[of]}
end

local seq = emit('draw', ARGV[8])
for i = 1, #paying, 2 do
  charge({changed[i]})
  if #calls > 0 then redis.call('HINCRBY', P .. 'a:' .. paying[i], 'r', #calls) end
end
for _, at in ipairs(calls) do
  local rid, request, number, state, usd, tokens, took = unpack(ARGV, at, at + 6)
  local row, ended, expires = ARGV[at + 9], ARGV[at + 10], ARGV[at + 11]
  redis.call('HSET', P .. 'r:' .. rid, 'st', state, 'a', usd, 't', tokens, 'e', expires,
    'q', request, 'n', number, 'p', lease[4], 'v', seq, 'x', took)
  local Q = P .. 'q:' .. request
  redis.call('HSET', Q, 'n:' .. number, rid)
  if row ~= '' and redis.call('HEXISTS', Q, 'st') == 0 then redis.call('HSET', Q, 'st', row) end
  if ended ~= '' then
    redis.call('HSET', Q, 'st', ended)
    redis.call('ZREM', P .. 'requests', request)
  elseif redis.call('HGET', Q, 'st') == 'open' then
    redis.call('ZADD', P .. 'requests', 'GT', expires, request)
  end
  forget('r:' .. rid, state == 'expired' and ARGV[10] or ARGV[9])
end
redis.call('HSET', L, 'a', ARGV[5], 't', ARGV[6], 'v', seq)
if open then
  redis.call('HSET', L, 'e', ARGV[7])
  redis.call('ZADD', P .. 'open', ARGV[7], ARGV[4])
  if redis.call('ZSCORE', P .. 'requests', lease[5]) then
    redis.call('ZADD', P .. 'requests', 'GT', ARGV[7], lease[5])
  end
else
  redis.call('HSET', L, 'x', ARGV[5])
end
return {'state', seq, lease[1]}
