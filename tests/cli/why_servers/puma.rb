# Data that puma loads before it forks its workers; each request reads some and writes to some.
workers 4
threads 1, 1
preload_app!
RECORDS = Array.new(30_000) { |number| [number, "record #{number}"] }
served = 0
app do |env|
  served += 1
  RECORDS.each_slice(200).to_a[served % 150].each { |record| record[1] = "seen #{served}" }
  GC.start if served % 8 == 7
  [200, { "Content-Type" => "text/plain" }, ["#{Process.pid} #{served}\n"]]
end
