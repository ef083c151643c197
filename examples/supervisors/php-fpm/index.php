<?php
$body = getmypid() . "\n";
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($body));
echo $body;
