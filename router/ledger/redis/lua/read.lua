-- Six for each take: series, budget, clock, window, since, resets at
local answer = {'ok', meta[3]}
for at = 4, #ARGV, 6 do
  local series, budget, clock, asked, since, asked_resets = unpack(ARGV, at, at + 5)
  local window, resets = current(clock, asked, asked_resets)
  local found, gone = counters(series, since, window, since ~= asked)
  if gone then return {'vanished', gone} end
  local set = redis.call('HMGET', P .. 'limit', series, budget)
  answer[#answer + 1] = {window, resets, set[1] or set[2] or '', unpack(found)}
end
return answer
