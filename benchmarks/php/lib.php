<?php
// What the three scripts share: the nodes' file, the state file and the lock around a change of it.

const DATA = __DIR__ . '/data';

function node_by_mac(string $mac): ?array
{
    $nodes = json_decode(file_get_contents(DATA . '/nodes.json'), true)['nodes'];
    foreach ($nodes as $node) {
        if ($node['mac'] === $mac) {
            return $node;
        }
    }
    return null;
}

function status_of(string $mac): string
{
    $file = DATA . '/state.json';
    $state = is_file($file) ? json_decode(file_get_contents($file), true) : [];
    return $state[$mac]['status'] ?? 'NEW';
}

function refuse(int $status, string $why): never
{
    http_response_code($status);
    exit("$why\n");
}
