-- 4 payload; then a name and a definition for each budget
local changed = false
for i = 5, #ARGV, 2 do
  changed = changed or redis.call('HGET', P .. 'budgets', ARGV[i]) ~= ARGV[i + 1]
end
if not changed then return {'ok', meta[3]} end
local seq = emit('define', ARGV[4])
for i = 5, #ARGV, 2 do redis.call('HSET', P .. 'budgets', ARGV[i], ARGV[i + 1]) end
return {'ok', seq}
