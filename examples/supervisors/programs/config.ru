# For unicorn and puma
run ->(_env) { body = "#{Process.pid}\n"; [200, { 'content-type' => 'text/plain', 'content-length' => body.bytesize.to_s }, [body]] }
