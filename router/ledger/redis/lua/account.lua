-- An account that no reservation refers to is let go once the log's store has all of it. A step that
-- needs it is told what is known there, {settled, held, overrun, seen, credited} by its name, and puts
-- it back. One that never was is all zeros.
local function told_of(argument)
  return argument ~= '' and cjson.decode(argument) or {}
end

local function put(name, counters, clock, look_at)
  redis.call('HSET', P .. 'a:' .. name, 's', counters[1], 'h', '0', 'o', counters[3],
    'n', counters[4], 'c', counters[5], 'r', '0', 'k', clock)
  redis.call('ZADD', P .. 'accounts', text(look_at), name)
end

local function server_time()
  return tonumber(redis.call('TIME')[1])
end
