-- Moves a reservation's amounts from held to settled: first seen to be possible, then done.
-- `held`, `actual` and `reserved` are {usd, tokens, requests}; `first` is false for a correction.
local OF = {usd = 1, tokens = 2, requests = 3, share = 3}

local function changes(paying, held, actual, reserved, first)
  local list = cjson.decode(paying)
  local done = {}
  for i = 1, #list, 2 do
    local of = OF[list[i + 1]]
    local c = redis.call('HMGET', P .. 'a:' .. list[i], 's', 'h', 'c')
    if not c[1] then return nil, {'vanished', list[i]} end
    -- What was credited is not taken back when a charge is corrected downwards.
    local settled, h = tonumber(c[1]) + actual[of], tonumber(c[2]) - held[of]
    if settled + tonumber(c[3]) < 0 or h < 0 or settled + h >= TOO_MUCH then
      return nil, {'overflow', list[i]}
    end
    local over = first and actual[of] - reserved[of] or actual[of]
    done[#done + 1] = {list[i], -held[of], actual[of], over}
  end
  return done, nil
end

local function charge(list)
  for _, c in ipairs(list) do
    local key = P .. 'a:' .. c[1]
    if c[2] ~= 0 then redis.call('HINCRBY', key, 'h', text(c[2])) end
    if c[3] ~= 0 then redis.call('HINCRBY', key, 's', text(c[3])) end
    if c[4] > 0 then redis.call('HINCRBY', key, 'o', text(c[4])) end
  end
end

-- When an ended reservation may be forgotten, in seconds of the server's own clock.
local function forget(member, seconds)
  local now = redis.call('TIME')
  redis.call('ZADD', P .. 'done', text(tonumber(now[1]) + tonumber(seconds)), member)
end
