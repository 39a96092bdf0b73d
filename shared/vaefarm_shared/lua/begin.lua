-- Write that the decode of a batch begins, each job in the name of its claim.
-- ARGV: 1 worker, 2 RQ's date, 3 '1' when several jobs share the device, then for each job:
--       id, token, execution, seconds after its submit by which it must begin or ''
-- Returns for each the number of its attempt, 'lost' or 'expired'.
--@ lib
--@ rq_begin
--@ begin_one
must_write()
local verdicts = {}
for place = 4, #ARGV, 4 do
  verdicts[#verdicts + 1] = begin_one(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], ARGV[1], ARGV[2],
    ARGV[3])
end
return verdicts
