-- 4 lease, 5 and 6 nano-USD and tokens to keep, 7 expires at, 8 payload, 9 how far the log's store was
-- looked at, 10 seconds to remember calls; then thirteen for each call that it does not know:
-- reservation, request, attempt, state, nano-USD and tokens set aside, nano-USD and tokens taken, of
-- these inside the lease, expires at, status of a new request ('' for none), of the request's end.
local LEASE, R = ARGV[4], P .. 'r:' .. ARGV[4]
local r = redis.call('HMGET', R, 'st', 'a', 't', 'p')
if not r[1] then return {'ok', meta[3], 'unknown'} end
if r[1] ~= 'open' and r[1] ~= 'expired' then return {'ok', meta[3], r[1]} end
local open = r[1] == 'open'

local calls, taken, inside = {}, {0, 0}, {0, 0}
for at = 11, #ARGV, 13 do
  local c = {unpack(ARGV, at, at + 12)}
  if redis.call('EXISTS', P .. 'r:' .. c[1]) == 0 then -- else it was drawn before
    local number = redis.call('HGET', P .. 'q:' .. c[2], 'n:' .. c[3])
    if number then return {'vanished', c[1] .. ': its attempt is ' .. number} end
    calls[#calls + 1] = c
    for i = 1, 2 do
      taken[i] = taken[i] + tonumber(c[6 + i])
      inside[i] = inside[i] + tonumber(c[8 + i])
    end
  end
end
if #calls > 0 and overlooked(ARGV[9]) then return {'again', meta[3]} end
local freed = {tonumber(r[2]) - tonumber(ARGV[5]), tonumber(r[3]) - tonumber(ARGV[6])}
if freed[1] < inside[1] or freed[2] < inside[2] then return {'ok', meta[3], 'short'} end

-- Of an open lease, what it holds falls; of an expired one, what it was charged.
local OF = {usd = 1, tokens = 2}
local list, moves = cjson.decode(r[4]), {}
for i = 1, #list, 2 do
  local of = OF[list[i + 1]]
  local c = redis.call('HMGET', P .. 'a:' .. list[i], 's', 'h', 'c')
  if not c[1] then return {'vanished', list[i]} end
  local falls = open and freed[of] or 0
  local charged = taken[of] - (open and 0 or freed[of])
  local settled, held = tonumber(c[1]) + charged, tonumber(c[2]) - falls
  if taken[of] >= EXACT or held < 0 or settled + tonumber(c[3]) < 0 or settled + held >= TOO_MUCH then
    return {'overflow', list[i]}
  end
  moves[i] = {list[i], -falls, charged, taken[of] - inside[of]}
end

local seq = emit('draw', '[' .. ARGV[8] .. ',"' .. r[1] .. '"]')
for i = 1, #list, 2 do
  charge({moves[i]})
  redis.call('HINCRBY', P .. 'a:' .. list[i], 'r', #calls)
end
redis.call('HSET', R, 'a', ARGV[5], 't', ARGV[6], 'v', seq)
if open then
  redis.call('HSET', R, 'e', ARGV[7])
  redis.call('ZADD', P .. 'open', ARGV[7], LEASE)
  redis.call('ZADD', P .. 'requests', 'XX', ARGV[7], LEASE)
else
  redis.call('HSET', R, 'x', ARGV[5])
end
for _, c in ipairs(calls) do
  local Q = P .. 'q:' .. c[2]
  redis.call('HSET', P .. 'r:' .. c[1], 'st', c[4], 'a', c[5], 't', c[6], 'e', c[11], 'q', c[2],
    'n', c[3], 'p', r[4], 'x', c[7], 'v', seq)
  forget('r:' .. c[1], ARGV[10])
  redis.call('HSET', Q, 'n:' .. c[3], c[1])
  redis.call('HSETNX', Q, 'st', c[12] ~= '' and c[12] or 'open')
  if c[13] ~= '' then
    redis.call('HSET', Q, 'st', c[13])
    redis.call('ZREM', P .. 'requests', c[2])
  elseif redis.call('HGET', Q, 'st') == 'open' then
    redis.call('ZADD', P .. 'requests', 'GT', c[11], c[2])
  end
end
return {'ok', seq, r[1]}
