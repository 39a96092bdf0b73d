-- What every part of a farm does all the time, and what changes nothing: a write, a read of RQ's.
redis.call('DEL', 'vaefarm:none')
return redis.call('EXISTS', 'rq:workers')
