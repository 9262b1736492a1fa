-- 4 reservation, 5 request, 6 attempt, 7 nano-USD, 8 tokens, 9 expires at, 10 status of a new
-- request ('' for none), 11 payload, 12 how far the log's store was looked at, and what it knows: 13
-- whether the reservation, 14 the status of the request, 15 whether its attempt, 16 accounts; then ten
-- for each take: series, budget, clock, meter, window, since, resets at, seconds after which it is seen
-- whether it can be let go (of a rolling window after its end, else from now on), amount, limit.
local FIRST = 17
local ZEROS = {'0', '0', '0', '0', '0'}
local rid, request, number = ARGV[4], ARGV[5], ARGV[6]
local known = redis.call('HMGET', P .. 'r:' .. rid, 'st', 'a', 't', 'e')
if known[1] then return {'known', meta[3], known[1], known[2], known[3], known[4]} end
if ARGV[13] ~= '' then return {'past', meta[3]} end
if overlooked(ARGV[12]) then return {'again', meta[3]} end

local accounts, told, untold = {}, told_of(ARGV[16]), {}
for at = FIRST, #ARGV, 10 do
  local series, budget, clock, meter, asked, since, asked_resets, span, amount, limit =
    unpack(ARGV, at, at + 9)
  local rolls = since ~= asked
  local window, resets, opens = current(clock, asked, asked_resets)
  local found, gone = counters(series, since, window, rolls)
  if gone then return {'vanished', gone} end
  local set = redis.call('HMGET', P .. 'limit', series, budget)
  limit = set[1] or set[2] or limit
  local mine = #found >= 5 and found[#found - 4] == window and #found - 4 or nil
  local name = series .. '|' .. window
  local past = not mine and (rolls and ZEROS or told[name])
  if not (mine or past) then
    untold[#untold + 1] = name
  elseif past and not rolls then
    if past[2] ~= '0' then return {'vanished', name} end
    found, mine = {window, unpack(past, 1, 4)}, 1
  end
  if amount ~= '0' and limit ~= '' and limit ~= '-1' then
    local left, seen = tonumber(limit), 0
    for i = 1, #found, 5 do seen = seen + tonumber(found[i + 4]) end
    if meter == 'share' then
      local share = left * (seen + 1)
      left = (share - share % 1000000) / 1000000
    end
    for i = 1, #found, 5 do
      left = left - tonumber(found[i + 2]) - math.max(0, tonumber(found[i + 1]))
    end
    for i = 1, #found, 5 do -- below 0 by what was credited before a correction
      left = left - math.min(0, tonumber(found[i + 1]))
    end
    if left < tonumber(amount) and #untold == 0 then
      return {'denied', meta[3], text((at - FIRST) / 10), window, limit, resets, unpack(found)}
    end
  end
  if mine and tonumber(found[mine + 1]) + tonumber(found[mine + 2]) + tonumber(amount) >= TOO_MUCH then
    return {'overflow', name}
  end
  accounts[#accounts + 1] = {
    name = name, series = series, window = window, clock = clock, meter = meter,
    resets = resets, span = span, amount = amount, opens = opens, past = past, rolls = rolls,
    pays = amount ~= '0' or meter ~= 'share'
  }
end

if #untold > 0 then return {'again', meta[3], unpack(untold)} end

local Q = P .. 'q:' .. request
local here = redis.call('EXISTS', Q) == 1
local logged = here or ARGV[14] ~= ''
if redis.call('HEXISTS', Q, 'n:' .. number) == 1 or ARGV[15] ~= '' or (ARGV[10] ~= '' and logged) then
  return {'invalid', meta[3], 'taken'}
end
if ARGV[10] == '' and not logged then return {'invalid', meta[3], 'missing'} end

local seq = emit('hold', ARGV[11])
local paying = {}
for _, a in ipairs(accounts) do
  local key = P .. 'a:' .. a.name
  if a.opens then redis.call('HSET', P .. 'clock', a.clock, a.window .. '|' .. a.resets) end
  if a.past then
    put(a.name, a.past, a.clock, (a.rolls and tonumber(a.resets) or server_time()) + tonumber(a.span))
    if a.rolls then redis.call('ZADD', P .. 'rolling:' .. a.series, 0, a.window) end
  end
  redis.call('HINCRBY', key, 'h', a.amount)
  redis.call('HINCRBY', key, 'n', 1)
  if a.pays then
    redis.call('HINCRBY', key, 'r', 1)
    paying[#paying + 1] = a.name
    paying[#paying + 1] = a.meter
  else
    redis.call('HSET', key, 'v', seq) -- no reservation says how far the log must have come
  end
end
redis.call('HSET', P .. 'r:' .. rid, 'st', 'open', 'a', ARGV[7], 't', ARGV[8], 'e', ARGV[9],
  'q', request, 'n', number, 'p', cjson.encode(paying), 'v', seq)
redis.call('ZADD', P .. 'open', ARGV[9], rid)
redis.call('HSET', Q, 'n:' .. number, rid)
if not here then redis.call('HSET', Q, 'st', ARGV[10] ~= '' and ARGV[10] or ARGV[14]) end
if redis.call('HGET', Q, 'st') == 'open' then
  redis.call('ZADD', P .. 'requests', 'GT', ARGV[9], request)
end
return {'ok', seq}
