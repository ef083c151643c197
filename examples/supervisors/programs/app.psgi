# For Starlet, under start_server or as our child
sub { my $body = "$$\n"; [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $body], [$body]] };
