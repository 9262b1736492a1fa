-- Begins every step: this must be the ledger that the process knows, and no older state of it.
-- KEYS[1]: the ledger's own hash; every other key shares its prefix, and so its hash tag.
-- ARGV: generation, run id of the server, highest step number that the process has seen, …
--
-- Money is text, since a number may print as "1e+15". It is compared as a double, by subtracting
-- from a limit of at most 2^53: exact, since every intermediate result is a smaller integer, and
-- larger counters round to no less than 2^53. Everything is checked before the first write, because
-- an error in the middle of a script undoes nothing.
local META = KEYS[1]
local P = string.sub(META, 1, -5)
local TOO_MUCH, EXACT = 9223372036854775808, 9007199254740992 -- 2^63, 2^53

local function text(number)
  return string.format('%.0f', number)
end

local meta = redis.call('HMGET', META, 'gen', 'run', 'seq', 'lost')
if not meta[1] then return {'gone'} end
if meta[1] ~= ARGV[1] then return {'gen'} end
if meta[4] then return {'lost', meta[4]} end
if meta[2] ~= ARGV[2] then return {'run'} end
if tonumber(meta[3]) < tonumber(ARGV[3]) then
  redis.call('HSET', META, 'lost', 'step ' .. ARGV[3] .. ' was acknowledged, the last is ' .. meta[3])
  return {'lost', 'step ' .. ARGV[3] .. ' was acknowledged, the last is ' .. meta[3]}
end

-- Whether something was forgotten here that the process's look into the log's store may have missed:
-- what is forgotten was copied there before, up to the step `drained`. `looked`: how far the copy was.
local function overlooked(looked)
  return tonumber(redis.call('HGET', META, 'drained')) > tonumber(looked)
end

-- Number this step and queue what it did for the log.
local function emit(kind, payload)
  local seq = text(redis.call('HINCRBY', META, 'seq', 1))
  redis.call('XADD', P .. 'outbox', seq .. '-0', 'k', kind, 'd', payload)
  return seq
end

-- The window that counts: the one asked for, or a later one that was opened already.
local function current(clock, window, resets)
  local latest = redis.call('HGET', P .. 'clock', clock)
  if latest then
    local id, ends = string.match(latest, '^([^|]*)|(.*)$')
    if id >= window then return id, ends, false end
  end
  return window, resets, true
end

-- The windows of a series that count, as a flat list: id, settled, held, overrun, seen, …
-- Second result: the name of one that should be there and is not.
local function counters(series, since, window, rolls)
  local ids = {window}
  if rolls then
    ids = redis.call('ZRANGEBYLEX', P .. 'rolling:' .. series, '[' .. since, '[' .. window)
  end
  local found = {}
  for _, id in ipairs(ids) do
    local name = series .. '|' .. id
    local c = redis.call('HMGET', P .. 'a:' .. name, 's', 'h', 'o', 'n')
    if c[1] then
      found[#found + 1] = id
      for i = 1, 4 do found[#found + 1] = c[i] end
    elseif rolls or redis.call('ZSCORE', P .. 'accounts', name) then
      return found, name
    end
  end
  return found, nil
end
