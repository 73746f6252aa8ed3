//! The tokio client of each service: its requests, each of which can be awaited.

/// Declares the tokio client of a service. Each method is one of `Client`, which runs on a thread
/// for blocking work; what is borrowed (`&T`) is copied for that, and `into T` stands for
/// `impl Into<T>`. `with` names the options that the client can have.
macro_rules! async_client {
    (
        $(#[$doc:meta])*
        pub struct AsyncClient$((with $options:ident))?;
        $($method:ident($($argument:tt)*) -> $result:ty;)*
    ) => {
        $(#[$doc])*
        ///
        /// [`call`](crate::AsyncClient::call) says what a request costs, how long it may take and
        /// what happens when its future is dropped. [`events`](crate::AsyncClient::events) is the
        /// stream of events, [`client`](crate::AsyncClient::client) the [`Client`] inside. Clones
        /// share the connection.
        #[derive(Clone)]
        pub struct AsyncClient($crate::client::AsyncClient<Client>);

        impl AsyncClient {
            /// Wraps a client. Events that are taken elsewhere do not come here.
            pub fn new(client: impl Into<std::sync::Arc<Client>>) -> Self {
                Self($crate::client::AsyncClient::new(client))
            }

            /// As [`Client::connect`].
            pub async fn connect() -> $crate::error::Result<Self> {
                $crate::client::AsyncClient::connect(Client::connect).await.map(Self)
            }

            /// As [`Client::connect_to`].
            pub async fn connect_to(
                endpoint: &$crate::endpoint::Endpoint,
            ) -> $crate::error::Result<Self> {
                let endpoint = endpoint.clone();
                let connect = move || Client::connect_to(&endpoint);
                $crate::client::AsyncClient::connect(connect).await.map(Self)
            }

            $(
                /// As [`Client::connect_with`].
                pub async fn connect_with(
                    endpoint: &$crate::endpoint::Endpoint,
                    options: $options,
                ) -> $crate::error::Result<Self> {
                    let endpoint = endpoint.clone();
                    let connect = move || Client::connect_with(&endpoint, options);
                    $crate::client::AsyncClient::connect(connect).await.map(Self)
                }
            )?

            $($crate::client::async_client!(@ $method [] [] [] ($($argument)*) -> $result);)*
        }

        impl From<$crate::client::AsyncClient<Client>> for AsyncClient {
            fn from(client: $crate::client::AsyncClient<Client>) -> Self {
                Self(client)
            }
        }

        impl std::ops::Deref for AsyncClient {
            type Target = $crate::client::AsyncClient<Client>;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        impl std::fmt::Debug for AsyncClient {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };

    (@ $method:ident [$($declared:tt)*] [$($owned:tt)*] [$($passed:tt)*] () -> $result:ty) => {
        #[doc = concat!("As [`Client::", stringify!($method), "`].")]
        pub async fn $method(&self, $($declared)*) -> $crate::error::Result<$result> {
            $($owned)*
            self.0.call(move |client| client.$method($($passed)*)).await
        }
    };
    (@ $method:ident [$($declared:tt)*] [$($owned:tt)*] [$($passed:tt)*]
        ($name:ident: &$type:ty $(, $($rest:tt)*)?) -> $result:ty) => {
        $crate::client::async_client!(@ $method
            [$($declared)* $name: &$type,]
            [$($owned)* let $name = $name.to_owned();]
            [$($passed)* &$name,]
            ($($($rest)*)?) -> $result);
    };
    (@ $method:ident [$($declared:tt)*] [$($owned:tt)*] [$($passed:tt)*]
        ($name:ident: into $type:ty $(, $($rest:tt)*)?) -> $result:ty) => {
        $crate::client::async_client!(@ $method
            [$($declared)* $name: impl Into<$type>,]
            [$($owned)* let $name: $type = $name.into();]
            [$($passed)* $name,]
            ($($($rest)*)?) -> $result);
    };
    (@ $method:ident [$($declared:tt)*] [$($owned:tt)*] [$($passed:tt)*]
        ($name:ident: $type:ty $(, $($rest:tt)*)?) -> $result:ty) => {
        $crate::client::async_client!(@ $method
            [$($declared)* $name: $type,]
            [$($owned)*]
            [$($passed)* $name,]
            ($($($rest)*)?) -> $result);
    };
}
pub(crate) use async_client;
