-- 4 series, 5 clock, 6 window, 7 since, 8 amount, 9 payload: from the latest window back
local window = current(ARGV[5], ARGV[6], '')
local found, gone = counters(ARGV[4], ARGV[7], window, ARGV[7] ~= ARGV[6])
if gone then return {'vanished', gone} end
local left, parts = tonumber(ARGV[8]), {}
for i = #found - 4, 1, -5 do
  local part = math.min(left, tonumber(found[i + 1]))
  if part > 0 then
    parts[#parts + 1] = {found[i], text(part)}
    left = left - part
  end
end
local seq = emit('credit', ARGV[9])
for _, part in ipairs(parts) do
  local key = P .. 'a:' .. ARGV[4] .. '|' .. part[1]
  redis.call('HINCRBY', key, 's', '-' .. part[2])
  redis.call('HINCRBY', key, 'c', part[2])
end
return {'ok', seq, text(tonumber(ARGV[8]) - left)}
